// What the tiles of experts share with their other kernels.
#pragma once
#include "moe/activations.cuh"
#include "tiles/tiles.cuh"
