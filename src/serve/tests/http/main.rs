//! The server from the clients' side: access, the API, and the page in a browser.

mod access;
mod accessibility;
mod api;
mod desk;
mod feed;
mod manage;
mod page;
mod past;
#[path = "../../../../tests/common/skip.rs"]
mod skip;
mod studio;
mod support;
mod teach;
mod teach_page;
mod tls;
mod unexpected;
#[path = "../../../../tests/common/wait.rs"]
mod wait;
mod wall;
#[path = "../../../../tests/common/webdriver.rs"]
mod webdriver;
