//! The engine in virtual time: `cluster.connect(a, b); cluster.run_until_quiescent();`

mod arbitrary;
mod cluster;
mod compare;
mod converge;
mod damage;
mod faults;
mod fleet;
mod forks;
mod frames;
mod heal;
mod hostile;
mod routed;
mod scenarios;
mod trees;
