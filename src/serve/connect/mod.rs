//! Connections to servers outside the program, for sinks and the fleet: TLS with own authorities, and logins.

pub(crate) mod nats;
pub(crate) mod tls;

/// Where the kernel has the name of the machine.
const HOST_NAME: &str = "/proc/sys/kernel/hostname";

/// An error with its causes: the outermost often names only the step.
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // Some errors contain the text of their cause.
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

/// The name of the machine.
pub(crate) fn host_name() -> String {
    let name = std::fs::read_to_string(HOST_NAME).unwrap_or_default();
    let name = name.trim();
    if crate::config::stream_id(name).is_ok() { name.to_owned() } else { "touchline".to_owned() }
}

/// A topic with its places filled.
pub(crate) fn filled(template: &str, instance: &str, stream: &str, kind: &str) -> String {
    template.replace("{instance}", instance).replace("{stream}", stream).replace("{kind}", kind)
}
