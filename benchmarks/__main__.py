"""All benchmarks, one after the other: ``make bench``."""

from benchmarks import diffusion_forward, fractional_map, histogram, shapes, training_speed

histogram.main()
print()
diffusion_forward.main()
print()
fractional_map.main()
print()
training_speed.main()
print()
shapes.main()
