"""Pure logic: no trio, no input or output, no clock, no logging. Pure functions decide, shells do."""
