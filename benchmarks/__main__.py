"""All benchmarks, one after the other: ``make bench``."""

from benchmarks import fractional_map, histogram

histogram.main()
print()
fractional_map.main()
