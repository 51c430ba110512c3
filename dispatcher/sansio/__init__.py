"""Pure logic: no Trio, no I/O, no clock, no logging. These functions decide; the rooms around them act."""
