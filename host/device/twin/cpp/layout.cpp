// Tells Python what the kernels were built from.

#include "kernel_structs.h"

extern "C" const char *brownout_layout() { return brownout::LAYOUT; }
