"""The file system over the core: inodes and names, control, purges, and the pyfuse3 adapter."""
