"""What a model does where it is not treated well: damaged logs, and somebody who asks it who it learned from."""
