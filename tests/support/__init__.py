"""What several tests, benchmarks and fuzzers share; none of it is a test."""
