"""What Looper does at the scale of thousands of engines and a million adapters: simulated and measured."""
