// Which of up to four products a block has a part of.
#pragma once
#include "common/device.cuh"
#include "tiles/args.cuh"

// That of block `group` of all, where blocks have `rows` rows of a matrix; `group` becomes its number among those of the product.
template <class Args>
DEVICE const Product& own_product(const Args& args, int rows, int& group) {
    uint32_t which = 0;
    for (; which + 1 < args.products_count; ++which) {
        const int groups = ceil_div(args.products[which].matrix.rows, rows);
        if (group < groups) break;
        group -= groups;
    }
    return args.products[which];
}
