"""Many runs: sweeps, replays, the seed's table, comparisons."""
