"""The part that Python cannot reach: requests of the kernel that pyfuse3 does not hand on."""
