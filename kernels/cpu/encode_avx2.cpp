// The encoders of AVX2.
#include "encode_leaf.h"

const EncodeLeaf encode_avx2 = leaf("avx2");
