//! An RTSP server with gst-rtsp-server. It serves a live pattern or a recording, with or without a password.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_rtsp_server as server;
use gstreamer_rtsp_server::prelude::*;
use parking_lot::Mutex;

/// The media at `/live`.
pub enum Media {
    /// A live moving pattern (H.264, 320×240, 25 pictures a second) and a tone (AAC, 48 kHz).
    Test { video: bool, audio: bool },
    /// The H.264 (and AAC) streams of an MP4 file, from the start for each client, played `plays` times.
    File { path: PathBuf, plays: u32 },
}

pub struct RtspServer {
    scheme: &'static str,
    host: String,
    port: u16,
    main_loop: glib::MainLoop,
    thread: Option<JoinHandle<()>>,
    _looped: Option<tempfile::TempDir>,
    /// The pipeline of the clients, from the first client on.
    playing: Arc<Mutex<Option<gst::Bin>>>,
}

impl RtspServer {
    pub fn start(media: Media) -> Self {
        Self::launch(media, None, "127.0.0.1", 0)
    }

    /// Listens on another address of this machine.
    pub fn start_at(host: &str, media: Media) -> Self {
        Self::launch(media, None, host, 0)
    }

    /// Listens on a given port, so that it can replace an earlier server.
    pub fn start_on(port: u16, media: Media) -> Self {
        Self::launch(media, None, "127.0.0.1", port)
    }

    /// Requires `user` and `password` (basic authentication).
    pub fn start_with_password(media: Media, user: &str, password: &str) -> Self {
        Self::launch(media, Some((user, password)), "127.0.0.1", 0)
    }

    /// Uses TLS with the certificate and key in `pem`.
    pub fn start_tls(media: Media, pem: &str) -> Self {
        let certificate = gio::TlsCertificate::from_pem(pem).expect("a certificate with its key");
        super::init();
        let auth = server::RTSPAuth::new();
        auth.set_tls_certificate(Some(&certificate));
        // A client without a login is a viewer.
        let token = server::RTSPToken::builder().field(server::RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer").build();
        auth.set_default_token(Some(&mut token.clone()));
        let mut started = Self::launch_with(media, Some(auth), "127.0.0.1", 0);
        started.scheme = "rtsps";
        started
    }

    fn launch(media: Media, login: Option<(&str, &str)>, host: &str, port: u16) -> Self {
        super::init();
        let auth = login.map(|(user, password)| {
            let auth = server::RTSPAuth::new();
            let token = server::RTSPToken::builder().field(server::RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer").build();
            auth.add_basic(&server::RTSPAuth::make_basic(user, password), &token);
            auth
        });
        Self::launch_with(media, auth, host, port)
    }

    fn launch_with(media: Media, auth: Option<server::RTSPAuth>, host: &str, port: u16) -> Self {
        let (launch, shared, looped) = describe(media);
        let context = glib::MainContext::new();
        let main_loop = glib::MainLoop::new(Some(&context), false);
        let rtsp = server::RTSPServer::new();
        rtsp.set_address(host);
        rtsp.set_service(&port.to_string());
        let factory = server::RTSPMediaFactory::new();
        factory.set_launch(&launch);
        factory.set_shared(shared);
        let playing = Arc::<Mutex<Option<gst::Bin>>>::default();
        let configured = playing.clone();
        factory.connect_media_configure(move |_, media| {
            *configured.lock() = media.element().downcast().ok();
        });
        if let Some(auth) = auth {
            rtsp.set_auth(Some(&auth));
            let role = gst::Structure::builder("viewer")
                .field(server::RTSP_PERM_MEDIA_FACTORY_ACCESS, true)
                .field(server::RTSP_PERM_MEDIA_FACTORY_CONSTRUCT, true)
                .build();
            factory.add_role_from_structure(&role);
        }
        rtsp.mount_points().expect("a new server has mount points").add_factory("/live", factory);
        rtsp.attach(Some(&context)).expect("the server binds a port");
        let port = u16::try_from(rtsp.bound_port()).expect("the server is bound");
        let running = main_loop.clone();
        let thread = std::thread::spawn(move || {
            running.run();
            // Clients would otherwise keep streaming after the loop that serves them has ended.
            rtsp.client_filter(Some(&mut |_, _| server::RTSPFilterResult::Remove));
        });
        Self { scheme: "rtsp", host: host.to_owned(), port, main_loop, thread: Some(thread), _looped: looped, playing }
    }

    /// Whether a client has started to play.
    pub fn is_playing(&self) -> bool {
        self.playing.lock().is_some()
    }

    /// Sends a track of [`Media::Test`] or drops it. A client must be playing.
    pub fn send(&self, track: &str, on: bool) {
        self.element(track).set_property("drop", !on);
    }

    pub fn size(&self, width: i32, height: i32) {
        let caps = gst::Caps::builder("video/x-raw")
            .field("width", width)
            .field("height", height)
            .field("framerate", gst::Fraction::new(25, 1))
            .build();
        self.element("size").set_property("caps", caps);
    }

    fn element(&self, name: &str) -> gst::Element {
        let playing = self.playing.lock();
        playing.as_ref().and_then(|bin| bin.by_name(name)).expect("a client plays, and the element exists")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("{}://{}:{}/live", self.scheme, self.host, self.port)
    }
}

impl Drop for RtspServer {
    fn drop(&mut self) {
        self.main_loop.quit();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The launch line, whether clients share one pipeline, and the folder of a looped copy.
fn describe(media: Media) -> (String, bool, Option<tempfile::TempDir>) {
    match media {
        Media::Test { video, audio } => {
            let mut line = String::from("( ");
            if video {
                line += "videotestsrc is-live=true pattern=pinwheel horizontal-speed=2 \
                         ! capsfilter name=size caps=video/x-raw,width=320,height=240,framerate=25/1 \
                         ! valve name=video ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 \
                         ! rtph264pay name=pay0 pt=96 config-interval=1 ";
            }
            if audio {
                line += &format!(
                    "audiotestsrc is-live=true ! audio/x-raw,rate=48000,channels=1 ! valve name=audio ! avenc_aac \
                     ! rtpmp4gpay name=pay{} pt=97 ",
                    u8::from(video)
                );
            }
            (line + ")", true, None)
        }
        Media::File { path, plays } => {
            let has_audio = std::process::Command::new("ffprobe")
                .args(["-v", "error", "-select_streams", "a", "-show_entries", "stream=index", "-of", "csv=p=0"])
                .arg(&path)
                .output()
                .is_ok_and(|o| !o.stdout.is_empty());
            let dir = tempfile::tempdir().expect("a temporary folder");
            let copy = dir.path().join("looped.mp4");
            let input = path.to_str().expect("a path in UTF-8");
            super::ffmpeg(&format!("-stream_loop {} -i {input} -c copy -movflags +faststart", plays.max(1) - 1), &copy);
            let mut line = format!(
                "( filesrc location={} ! qtdemux name=demux demux. ! queue ! h264parse \
                 ! rtph264pay name=pay0 pt=96 config-interval=1 ",
                copy.display()
            );
            if has_audio {
                line += "demux. ! queue ! aacparse ! rtpmp4gpay name=pay1 pt=97 ";
            }
            (line + ")", false, Some(dir))
        }
    }
}
