//! The scripts of the templates, cancelled in the middle of an apply: in the order and the environment that the template
//! gives them, with the signals of its CI system.

mod cancel;
mod github;
mod gitlab;
mod jenkins;
mod others;
