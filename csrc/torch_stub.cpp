// Empty on purpose: a library with the SONAME libtorch_cpu.so, used at link time and never
// installed. Linking it makes libtorchsru.so name libtorch_cpu.so as a library that it needs, so
// that the dynamic loader resolves the stable C functions declared in stable_abi.h from whichever
// PyTorch is loaded. It defines none of them, so it can't disagree with PyTorch: a function that
// is misspelt or missing there fails when the library is loaded, and tests load it.
