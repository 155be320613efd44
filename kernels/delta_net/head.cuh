// Heads of 128 channels. Four blocks of the scan share a value head, 32 of its columns each.
#pragma once
#include "delta_net/conv.cuh"

const uint32_t DIM = 128;
const uint32_t PARTS = 4;
const uint32_t COLUMNS = DIM / PARTS;  // of a block
const float QUERY_SCALE = 0.08838834764831845f;  // 1 / sqrt(DIM)
