//! The server from the clients' side: access, the API, and the page in a browser.

mod access;
mod api;
mod page;
#[path = "../../../../tests/common/skip.rs"]
mod skip;
mod support;
#[path = "../../../../tests/common/wait.rs"]
mod wait;
#[path = "../../../../tests/common/webdriver.rs"]
mod webdriver;
