//! Checks of addresses and topics.

use url::Url;

/// A key and what is wrong with its value.
pub(in crate::config) type Mistake = (&'static str, String);

/// The address of a receiver. `example` is one.
pub(super) fn address(url: Option<&str>, schemes: &[&str], example: &str) -> Result<Url, Mistake> {
    let wrong = |text: String| Err(("url", text));
    let Some(text) = url else {
        return wrong(format!("the sink has no address; add one as in url = \"{example}\""));
    };
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(e) => return wrong(format!("not a valid address: {e}; write one as in {example}")),
    };
    if !schemes.contains(&url.scheme()) {
        return wrong(format!("unknown scheme {:?}; use {}", url.scheme(), schemes.join(" or ")));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return wrong(format!("the host is missing; write the address as in {example}"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return wrong(
            "the address contains a login; remove it and give the secret by secret_file or secret_env".into(),
        );
    }
    if url.fragment().is_some() {
        return wrong("the address contains a fragment (#…); remove it".into());
    }
    Ok(url)
}

/// The address of a server, which has no path.
pub(super) fn server(url: Option<&str>, schemes: &[&str], example: &str) -> Result<Url, Mistake> {
    let url = address(url, schemes, example)?;
    if !matches!(url.path(), "" | "/") || url.query().is_some() {
        return Err(("url", format!("the address has a path; write it as in {example}")));
    }
    Ok(url)
}

/// The longest name of a topic of Kafka, with room for the names of an instance and a stream.
const KAFKA_TOPIC_MAX: usize = 249 - 2 * 64;

/// A topic of Kafka with places, or the default.
pub(super) fn kafka_topic(text: Option<String>) -> Result<String, Mistake> {
    let topic = template(text, "touchline", &[])?;
    let rest = ["{instance}", "{stream}", "{kind}"].iter().fold(topic.clone(), |rest, place| rest.replace(place, ""));
    let is_good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if rest.len() > KAFKA_TOPIC_MAX || !rest.chars().all(is_good) {
        let advice = "Kafka allows letters, digits, '.', '_' and '-', as in touchline.{kind}";
        return Err(("topic", format!("{topic:?} cannot be used; {advice}")));
    }
    Ok(topic)
}

/// A topic or a subject with places, or the default.
pub(super) fn template(text: Option<String>, default: &str, wildcards: &[char]) -> Result<String, Mistake> {
    let text = text.unwrap_or_else(|| default.to_owned());
    let rest = ["{instance}", "{stream}", "{kind}"].iter().fold(text.clone(), |rest, place| rest.replace(place, "x"));
    let is_bad = |c: char| wildcards.contains(&c) || c.is_whitespace() || c.is_control() || matches!(c, '{' | '}');
    if rest.is_empty() || rest.len() > 512 || rest.contains(is_bad) {
        let advice = format!("use {{instance}}, {{stream}} and {{kind}}, and no spaces and wildcards, as in {default}");
        return Err(("topic", format!("{text:?} cannot be used; {advice}")));
    }
    Ok(text)
}
