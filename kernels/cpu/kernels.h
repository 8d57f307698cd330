// What the leaf files offer to module.cpp: plain pointers and sizes, no Python.
#pragma once
#include <cstddef>
#include <cstdint>

// Names of the instruction sets found, as a null-terminated list.
const char* const* cpu_features();

// Sum of the n/8 64-bit words at p, modulo 2^64, plus the n%8 bytes left over.
uint64_t read_sum_span(const uint8_t* p, size_t n);
