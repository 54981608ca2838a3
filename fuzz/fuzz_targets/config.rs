//! The three files people write: the Gateway's configuration, the agent's, and a Workstation's. No
//! text panics; a refusal names the file and a remedy; a Workstation's file survives being written.
#![no_main]

use control::config::{Agent, Gateway};
use control::problem::Problem;
use control::workstation::Workstation;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fn judge(path: &Path, problem: &Problem) {
    let text = format!("{}: {}", problem.tried, problem.happened);
    assert!(text.contains(path.to_str().expect("a path")), "{text}");
    assert!(!problem.remedy.is_empty() && !problem.happened.is_empty());
}

fuzz_target!(|bytes: &[u8]| {
    let Some((which, text)) = bytes.split_first() else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return;
    };
    match which % 3 {
        0 => {
            let path = Path::new("/etc/portcullis/portcullis.toml");
            match Gateway::parse(path, text) {
                Ok(config) => {
                    assert!(!config.ports.is_empty());
                    let _ = config.encapsulation_for(None);
                }
                Err(problem) => judge(path, &problem),
            }
        }
        1 => {
            let path = Path::new("/etc/portcullis/agent.toml");
            if let Err(problem) = Agent::parse(path, text) {
                judge(path, &problem);
            }
        }
        _ => {
            let path = Path::new("workstations/alpha.toml");
            match Workstation::parse(path, text) {
                Ok(workstation) => {
                    let again = Workstation::parse(path, &workstation.to_text());
                    assert_eq!(again.as_ref().ok(), Some(&workstation), "{again:?}");
                }
                Err(problem) => judge(path, &problem),
            }
        }
    }
});
