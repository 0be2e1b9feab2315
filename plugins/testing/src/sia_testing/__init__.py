"""What plugin authors test with: small fakes of what surrounds a plugin, and contract suites."""
