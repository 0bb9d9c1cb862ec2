// Marks a function of the host library that Python calls: GPUPREP_EXPORT int gp_name(...).
#pragma once
#define GPUPREP_EXPORT extern "C" __attribute__((visibility("default")))
