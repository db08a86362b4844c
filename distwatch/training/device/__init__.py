"""Inside the graph: the rings that hold rows, the references, the kernels."""
