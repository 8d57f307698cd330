// The encoders of AVX512.
#include "encode_leaf.h"

const EncodeLeaf encode_avx512 = leaf("avx512");
