#pragma once
#include <string>
#include <vector>

#include "tiles.h"

// The instruction sets that this processor runs, the best first.
std::vector<const Isa*> isas();

// One of them by name; the empty name is QLAB_CPU_ISA, or else the best. Throws std::invalid_argument.
const Isa& isa_named(const std::string& name);
