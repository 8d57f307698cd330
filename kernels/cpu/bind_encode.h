// What module.cpp calls to bind the encoders.
#pragma once
#include <nanobind/nanobind.h>

void bind_encode(nanobind::module_& m);
