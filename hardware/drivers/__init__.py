"""Vendors' controllers behind one device: `MotionStage` with a `Meca500Controller`, an `XimcController` or a fake."""
