// The encoders for AVX512.
#include "encode_leaf.h"

#if defined(__x86_64__)
const EncodeLeaf encode_avx512 = leaf("avx512");
#endif
