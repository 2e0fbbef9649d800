//! Says to the linker what only the program needs. Must not generate code.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // A word of each relocation instead of three: 0.3 MiB that would be read at the start and stay in memory. A linker that does not
    // know it says so and goes on.
    println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}
