"""Weights from elsewhere and for elsewhere: strangers' encoders behind one interface, and exports to other systems."""
