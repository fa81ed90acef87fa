"""From pictures to the published numbers: a released model, scored and held against its paper."""
