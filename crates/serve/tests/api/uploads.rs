//! Pictures from outside: good ones, and those that mean harm.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use ndarray::{Array4, Axis};
use serde_json::json;
use skipstone::engine::EngineOptions;
use skipstone::io::image::{Picture, decode_png, encode_png, npy, to_byte};
use skipstone::math::noise::{KeyedRng, Purpose};
use skipstone::sampling::generate::{Generator, Inputs};
use skipstone::sampling::inversion::{Latents, Method, encode, squared_errors, unobserved};
use skipstone::sampling::options::{ClipMode, Request as Wanted};
use skipstone_serve::{Limits, Setup, app};

use crate::support::{decoded, form, get, model, picture, post, send, service, shared};

/// A gray picture.
pub fn gradient(width: usize, height: usize) -> Vec<u8> {
    let data = (0..width * height).map(|i| ((i % width) * 255 / width) as u8).collect();
    encode_png(&Picture::new(width, height, 1, data).unwrap(), &[]).unwrap()
}

/// The same with other dimensions in its header.
fn lying(width: u32, height: u32) -> Vec<u8> {
    let mut png = gradient(8, 8);
    png[16..20].copy_from_slice(&width.to_be_bytes());
    png[20..24].copy_from_slice(&height.to_be_bytes());
    // CRC-32 of IHDR, bit by bit.
    let mut crc = u32::MAX;
    for &byte in &png[12..29] {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    png[29..33].copy_from_slice(&(!crc).to_be_bytes());
    png
}

#[test]
fn what_is_no_picture_or_too_large_a_one_is_refused_kindly() {
    shared(async |router| {
        let png = gradient(16, 16);
        let truncated = &png[..png.len() / 2];
        let mut damaged = png.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        let bomb = lying(60_000, 60_000);
        let wide = lying(1 << 20, 1);
        let nothing: &[u8] = b"";
        let cases: [(&str, &[u8]); 8] = [
            ("truncated", truncated),
            ("damaged", &damaged),
            ("60,000 × 60,000", &bomb),
            ("a million wide", &wide),
            ("text", b"hello"),
            ("empty", nothing),
            ("GIF", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;"),
            ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ];
        for (name, bytes) in cases {
            for path in ["/v1/encode", "/v1/reconstruct"] {
                let reply = send(&router, form(path, &[("steps", "2")], &[bytes])).await;
                assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{name}: {:?}", reply.body);
                let (_, message, field) = reply.error();
                assert_eq!(field.as_deref(), Some("image"), "{name}: {message}");
            }
        }
    });
}

#[test]
fn a_form_that_is_not_what_was_asked_for_says_what_is_wrong() {
    shared(async |router| {
        let png = gradient(8, 8);
        type Case = (&'static [(&'static str, &'static str)], usize, &'static str);
        let cases: [Case; 6] = [
            (&[], 0, "expected one file, found 0"),
            (&[], 2, "expected one file, found 2"),
            (&[("stepz", "2")], 1, "did you mean \"steps\"?"),
            (&[("steps", "many")], 1, "steps: expected a number, found \"many\""),
            (&[("steps", "2"), ("steps", "3")], 1, "steps: given twice"),
            (&[("model", "tinny")], 1, "the nearest is \"tiny\""),
        ];
        for (fields, images, expected) in cases {
            let reply = send(&router, form("/v1/encode", fields, &vec![&png[..]; images])).await;
            assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{:?}", reply.body);
            assert!(reply.error().1.contains(expected), "{:?}", reply.error());
        }
        let three = send(&router, form("/v1/interpolate", &[], &[&png, &png, &png])).await;
        assert!(three.error().1.contains("two files (a line) or four (a square), found 3"));
        let broken = Request::post("/v1/encode").header("content-type", "multipart/form-data; boundary=edge");
        let reply = send(&router, broken.body(Body::from("--edge\r\nnonsense")).unwrap()).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{:?}", reply.body);
        let unnamed = Request::post("/v1/encode").header("content-type", "multipart/form-data");
        let reply = send(&router, unnamed.body(Body::empty()).unwrap()).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{:?}", reply.body);
        let other = Request::post("/v1/encode").header("content-type", "image/png").body(Body::from(png)).unwrap();
        assert_eq!(send(&router, other).await.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    });
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_413() {
    let limits = Limits { upload_bytes: 4096, ..Limits::default() };
    let router = app(service(Setup { limits, ..Setup::default() }));
    let mut noise = vec![0.0; 90 * 90];
    KeyedRng::new(1, Purpose::Latent, 0, 0).fill_gaussian(&mut noise);
    let noise: Vec<u8> = noise.iter().map(|x| to_byte(*x)).collect();
    let png = encode_png(&Picture::new(90, 90, 1, noise).unwrap(), &[]).unwrap();
    assert!(png.len() > 4096);
    let reply = send(&router, form("/v1/encode", &[("steps", "2")], &[&png])).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE, "{:?}", reply.body);
    assert_eq!(reply.error().0, "payload_too_large");
    let long = json!({"model": "x".repeat(70_000)});
    let reply = post(&router, "/v1/sample", long).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE, "{:?}", reply.body);
}

#[tokio::test]
async fn a_picture_of_more_pixels_than_allowed_is_refused_before_it_is_decoded() {
    let limits = Limits { pixels: 100 * 100, ..Limits::default() };
    let router = app(service(Setup { limits, ..Setup::default() }));
    let fits = send(&router, form("/v1/encode", &[("steps", "1")], &[&gradient(100, 100)])).await;
    assert_eq!(fits.status, StatusCode::OK, "{:?}", fits.body);
    let reply = send(&router, form("/v1/encode", &[("steps", "1")], &[&gradient(101, 100)])).await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert!(reply.error().1.contains("expected 1 to 10000"), "{:?}", reply.error());
}

#[tokio::test]
async fn more_pictures_at_once_than_may_wait_are_429_and_counted() {
    let router = app(service(Setup::default()));
    // Large enough that none is decoded before the last has come.
    let large = gradient(2000, 2000);
    let mut asked = tokio::task::JoinSet::new();
    for _ in 0..24 {
        let (router, request) = (router.clone(), form("/v1/encode", &[("steps", "1")], &[&large]));
        asked.spawn(async move { send(&router, request).await });
    }
    let mut refused = 0;
    while let Some(reply) = asked.join_next().await {
        let reply = reply.unwrap();
        match reply.status {
            StatusCode::OK => {}
            StatusCode::TOO_MANY_REQUESTS => {
                assert!(reply.header("retry-after").is_some());
                refused += 1;
            }
            other => panic!("{other}: {:?}", reply.body),
        }
    }
    assert!((1..=6).contains(&refused), "18 have a place, {refused} of 24 were refused");
    let metrics = String::from_utf8(get(&router, "/metrics").await.body.to_vec()).unwrap();
    assert!(metrics.contains(&format!("skipstone_refused_total {refused}\n")), "{metrics}");
}

/// The library's own encoding of an 8×8 picture in so many steps: images, latents, images again.
fn round_trip(png: &[u8], steps: usize) -> (Array4<f32>, Array4<f32>, Array4<f32>) {
    let x0 = decode_png(png).unwrap().picture.to_image().insert_axis(Axis(0));
    let wanted = Wanted { steps: Some(steps), clip: Some(ClipMode::Off), ..Wanted::default() };
    let generator = Generator::new(model(false), &EngineOptions::default(), &wanted, Inputs::default(), 0, 1).unwrap();
    let encoded = encode(generator.network(), generator.plan(), &x0, &Method::Ddim, &[], &mut unobserved);
    let Latents::One(x_t) = encoded.unwrap().latents else { panic!("one latent") };
    let inputs = Inputs { latents: Some(x_t.clone()), ..Inputs::default() };
    let generator = generator.with_inputs(inputs, 0, 1).unwrap();
    let back = generator.generate(0..1, &mut skipstone::sampling::sampler::unobserved).unwrap();
    (x0, x_t, back)
}

#[test]
fn encoding_and_reconstructing_are_the_library_s() {
    shared(async |router| {
        let png = gradient(8, 8);
        let encoded = send(&router, form("/v1/encode", &[("steps", "6")], &[&png])).await.json();
        let (x0, x_t, back) = round_trip(&png, 6);
        let file = decoded(&encoded["latent"]);
        assert_eq!(npy::decode::<f32, ndarray::Ix4>(&file[..], file.len() as u64).unwrap(), x_t);
        assert_eq!(picture(&encoded["png"]), decode_png(&png).unwrap().picture);
        assert_eq!(encoded["calls"], 6);

        let answer = send(&router, form("/v1/reconstruct", &[("steps", "3,6")], &[&png])).await.json();
        let row = &answer["rows"][1];
        assert_eq!(picture(&row["png"]), Picture::from_image(back.index_axis(Axis(0), 0)).unwrap());
        let latent = (&x_t / 3.0).index_axis(Axis(0), 0).to_owned();
        assert_eq!(picture(&row["latent_png"]), Picture::from_image(latent.view()).unwrap());
        assert_eq!(row["mse"].as_f64(), Some(squared_errors(&x0, &back).unwrap()[0]));
        assert_eq!(answer["calls"], 2 * (3 + 6));
        assert_eq!(answer["command"], "skipstone reconstruct --model tiny --images image.png --steps 3,6");
    });
}

#[test]
fn the_ends_of_a_line_between_pictures_are_their_reconstructions() {
    shared(async |router| {
        let (a, b) = (gradient(8, 8), lying(8, 8));
        let fields = [("steps", "5"), ("points", "3")];
        let line = send(&router, form("/v1/interpolate", &fields, &[&a, &b])).await.json();
        let (_, _, back) = round_trip(&a, 5);
        assert_eq!(picture(&line["tiles"][0]), Picture::from_image(back.index_axis(Axis(0), 0)).unwrap());
        assert_eq!(line["calls"], 10);
        let middle = [("steps", "5"), ("at", "0.5")];
        let point = send(&router, form("/v1/interpolate", &middle, &[&a, &b])).await.json();
        assert_eq!(point["tiles"][0], line["tiles"][1]);
        assert!(point["command"].is_null());
    });
}

#[test]
fn a_body_that_stops_before_its_end_is_408() {
    shared(async |router| {
        let begun = "--edge\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\nhalf";
        for (path, kind, begun) in
            [("/v1/encode", "multipart/form-data; boundary=edge", begun), ("/v1/sample", "application/json", "{\"n\":")]
        {
            let parts = [Ok(begun), Err(std::io::Error::other("the caller has gone"))];
            let body = Body::from_stream(tokio_stream::iter(parts));
            let reply = send(&router, Request::post(path).header("content-type", kind).body(body).unwrap()).await;
            assert_eq!(reply.status, StatusCode::REQUEST_TIMEOUT, "{path}: {:?}", reply.body);
            assert_eq!(reply.error().0, "request_timeout");
        }
    });
}

#[test]
fn a_field_s_name_is_not_repeated_at_any_length() {
    shared(async |router| {
        let long = "x".repeat(65);
        let reply = send(&router, form("/v1/encode", &[(&long, "1")], &[&gradient(8, 8)])).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST);
        assert!(reply.error().1.contains("a name of more than 64 bytes"), "{:?}", reply.error());
    });
}
