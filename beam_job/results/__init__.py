"""What an output holds over all of its runs: status, snapshots, exports and corrections."""
