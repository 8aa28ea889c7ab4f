//! A lane over a simulated clock and an origin in memory.
