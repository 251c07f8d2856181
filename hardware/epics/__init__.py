"""The EPICS twin: an IOC on loopback with motor records and a camera, and the simulated instrument behind them."""
