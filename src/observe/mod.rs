//! What Terraform says about itself: locks and phases from its log, interrupts from its output.
