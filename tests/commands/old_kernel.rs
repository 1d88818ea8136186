//! Tests that a kernel that is too old gives an error of one line, and no panic. A library that is
//! loaded before libc (LD_PRELOAD) replaces the answers of this kernel with those of an old one.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{self, Ended, Temporary, run, upcase};

/// A library that shortens TCP_INFO to the 192 bytes that it had before Linux 4.19, and replaces
/// the release that uname(2) returns.
const LIBRARY: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>

int getsockopt(int fd, int level, int name, void *value, socklen_t *length) {
    int (*real)(int, int, int, void *, socklen_t *) = dlsym(RTLD_NEXT, "getsockopt");
    int outcome = real(fd, level, name, value, length);
    int is_short = getenv("SHORT_TCP_INFO") != NULL && level == IPPROTO_TCP && name == TCP_INFO;
    if (outcome == 0 && is_short && *length > 192)
        *length = 192;
    return outcome;
}

int uname(struct utsname *name) {
    int (*real)(struct utsname *) = dlsym(RTLD_NEXT, "uname");
    int outcome = real(name);
    if (outcome == 0 && getenv("OLD_RELEASE") != NULL)
        strcpy(name->release, getenv("OLD_RELEASE"));
    return outcome;
}
"#;

/// The built library, which is removed with its test.
struct Library(PathBuf);

impl Library {
    fn build() -> Option<Library> {
        if !common::installed("cc") {
            common::skip("no cc (package build-essential)");
            return None;
        }
        let source = Temporary::new(LIBRARY.as_bytes());
        let name = format!("old-kernel-{}.so", std::process::id());
        let library = Library(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-x", "c", "-o"]);
        cc.arg(&library.0).arg(&source.0).arg("-ldl");
        assert!(cc.status().unwrap().success());
        Some(library)
    }

    fn run(&self, arguments: &str, variable: (&str, &str)) -> Ended {
        let mut command = upcase(arguments);
        command
            .env("LD_PRELOAD", &self.0)
            .env(variable.0, variable.1);
        Ended::from(command.output().unwrap())
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_kernel_that_knows_less_of_a_connection_is_refused_at_the_start() {
    let Some(library) = Library::build() else {
        return;
    };
    let arguments = [
        "serve --listen 127.0.0.1:0 --stall-timeout 1s",
        "load --connections 2 --duration 100ms",
    ];
    for arguments in arguments {
        for variable in [("SHORT_TCP_INFO", "1"), ("OLD_RELEASE", "4.19.0-27-amd64")] {
            let ended = library.run(arguments, variable).expect(3);
            assert!(
                ended.stderr.contains("Linux 5.4 or newer is required"),
                "{ended:?}"
            );
            assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
        }
    }
    let ended = library.run(arguments[1], ("OLD_RELEASE", "5.4.0"));
    assert!(ended.code != Some(3), "it is new enough: {ended:?}");
    run("--version").expect(0);
}
