//! Every kernel against a plain reference.
