// The encoders of the portable path.
#include "encode_leaf.h"

const EncodeLeaf encode_scalar = leaf("scalar");
