// The encoders for AVX2.
#include "encode_leaf.h"

#if defined(__x86_64__)
const EncodeLeaf encode_avx2 = leaf("avx2");
#endif
