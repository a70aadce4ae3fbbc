//! The `fleetsync` binary; everything is in the library.

fn main() -> std::process::ExitCode {
    node::main()
}
