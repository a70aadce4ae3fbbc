use super::*;

mod epochs;
mod history;
mod mutants;
mod oracle;
mod refusals;
