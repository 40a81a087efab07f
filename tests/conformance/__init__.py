"""One test class a store, and the proof that the suite has teeth."""
