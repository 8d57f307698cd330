// The encoders for any processor.
#include "encode_leaf.h"

const EncodeLeaf encode_baseline = leaf("baseline");
