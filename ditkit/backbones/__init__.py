"""Floor 2: networks, net(x, t, condition, keep=()) -> Output."""
