//! Sliding vote over seconds, and events by hysteresis.
