"""The microbenchmark suite behind `sheaf microbenchmark`: lines, floors, peers, and the table that compares them."""
