//! Layers that candle lacks or that this program needs in another shape, as candle custom ops.
