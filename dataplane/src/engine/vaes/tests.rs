//! The two forms against each other and the libraries.
