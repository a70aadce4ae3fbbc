use super::*;
fn fill(s: &Store, n: u32) {
    for i in 0..n {
        let mut b = Batch::default();
        b.put(
            Table::Change,
            i.to_be_bytes().to_vec(),
            (0..200u32).map(|j| (i.wrapping_mul(2654435761).wrapping_add(j * 40503) >> 7) as u8).collect(),
        );
        s.apply(&b).unwrap();
    }
}
#[test]
fn explore() {
    let dir = tempfile::tempdir().unwrap();
    let p = dir.path().join("db");
    let s = Store::open(&p).unwrap();
    fill(&s, 2000);
    for (t, _) in TABLES {
        s.open.db.flush_cf(s.open.family(t)).unwrap();
    }
    drop(s);
    for e in file_names(&p).unwrap() {
        eprintln!("{e} {}", fs::metadata(p.join(&e)).unwrap().len());
    }
    let base = p;
    let mut hist = std::collections::BTreeMap::<String, (u32, String)>::new();
    for name in file_names(&base).unwrap() {
        if !name.ends_with(".sst") {
            continue;
        }
        let bytes = fs::read(base.join(&name)).unwrap();
        for k in 0..400 {
            let at = if k < 200 { bytes.len() * k / 200 } else { bytes.len() - (k - 199) * 10 };
            if at >= bytes.len() {
                continue;
            }
            let q = dir.path().join("copy");
            let _ = fs::remove_dir_all(&q);
            fs::create_dir(&q).unwrap();
            for n in file_names(&base).unwrap() {
                fs::copy(base.join(&n), q.join(&n)).unwrap();
            }
            let mut b = bytes.clone();
            b[at] ^= 0x10;
            fs::write(q.join(&name), b).unwrap();
            let r = match Store::open(&q) {
                Ok(s) => {
                    let mut n = 0;
                    let c = s.check_all();
                    let r = s.scan(Table::Change, &[], &[255], &mut |_, _| {
                        n += 1;
                        ControlFlow::Continue(())
                    });
                    format!("ok check {c:?} scan {n} {}", r.is_ok())
                }
                Err(e) => format!("{e:?}"),
            };
            let key: String =
                format!("{name}: {}", r.chars().filter(|c| !c.is_ascii_digit()).take(200).collect::<String>());
            hist.entry(key).or_insert((0, r)).0 += 1;
        }
    }
    for (k, (n, r)) in hist {
        eprintln!("{n:3} {} -> {r}", k.split(':').next().unwrap());
    }
    // missing files
    for suffix in [".sst", ".log"] {
        let q = dir.path().join("copy");
        let _ = fs::remove_dir_all(&q);
        fs::create_dir(&q).unwrap();
        for n in file_names(&base).unwrap() {
            if !n.ends_with(suffix) && !n.starts_with(suffix) {
                fs::copy(base.join(&n), q.join(&n)).unwrap();
            }
        }
        eprintln!("missing {suffix}: {:?}", Store::open(&q));
    }
}
#[test]
fn logs_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let p = dir.path().join("db");
    let mut most = 0;
    for i in 0..40u32 {
        let s = Store::open(&p).unwrap();
        let mut b = Batch::default();
        b.put(Table::Change, i.to_be_bytes().to_vec(), vec![1; 100]);
        if i % 3 == 0 {
            b.put(Table::Meta, i.to_be_bytes().to_vec(), vec![1; 100]);
        }
        s.apply(&b).unwrap();
        s.sync().unwrap();
        drop(s);
        let n = file_names(&p).unwrap();
        let l = n.iter().filter(|n| n.ends_with(".log")).count();
        most = most.max(l);
        eprint!("{l}/{} ", n.iter().filter(|n| n.ends_with(".sst")).count());
    }
    eprintln!("most {most}");
    // a missing middle log
    let mut logs: Vec<_> = file_names(&p).unwrap().into_iter().filter(|n| n.ends_with(".log")).collect();
    logs.sort();
    eprintln!("{logs:?}");
    fs::remove_file(p.join(&logs[logs.len() / 2])).unwrap();
    eprintln!("middle missing: {:?}", Store::open(&p));
}
#[test]
fn enospc() {
    for round in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let m = dir.path().to_owned();
        assert!(
            std::process::Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"])
                .arg(&m)
                .status()
                .unwrap()
                .success()
        );
        let p = m.join("db");
        let s = Store::open(&p).unwrap();
        fill(&s, 100);
        let ballast = m.join("ballast");
        let free = s.free_bytes();
        fs::write(&ballast, vec![1u8; free as usize - 300_000]).unwrap();
        eprintln!("free {free} -> {}", s.free_bytes());
        let mut i = 1000u32;
        let mut err = None;
        while err.is_none() && i < 200_000 {
            let mut b = Batch::default();
            b.put(Table::Change, i.to_be_bytes().to_vec(), vec![i as u8; 1000]);
            err = s.apply(&b).err();
            if round == 1 && err.is_none() {
                err = s.sync().err();
            }
            i += 1;
        }
        eprintln!("round {round}: err at {i} {err:?} free {}", s.free_bytes());
        let mut b = Batch::default();
        b.put(Table::Change, b"x".to_vec(), vec![9; 1000]);
        eprintln!(
            "again {:?} sync {:?} get {:?}",
            s.apply(&b),
            s.sync(),
            s.get(Table::Change, &5u32.to_be_bytes()).unwrap().is_some()
        );
        if round == 2 {
            let t = std::time::Instant::now();
            drop(s);
            eprintln!("drop while full {:?}", t.elapsed());
            let r = Store::open(&p);
            eprintln!("open while full {r:?}");
            drop(r);
            fs::remove_file(&ballast).unwrap();
            let s = Store::open(&p).unwrap();
            let mut n = 0;
            s.scan(Table::Change, &[], &[255], &mut |_, _| {
                n += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
            eprintln!("rows {n} want {}", 100 + i - 1000 - 1);
            drop(s);
        } else {
            fs::remove_file(&ballast).unwrap();
            let t = std::time::Instant::now();
            let mut last = None;
            while let Err(e) = s.apply(&b) {
                last = Some(e);
                std::thread::sleep(std::time::Duration::from_millis(100));
                assert!(t.elapsed().as_secs() < 30, "{last:?}");
            }
            eprintln!("recovered after {:?} sync {:?} last {last:?}", t.elapsed(), s.sync());
            let mut n = 0;
            s.scan(Table::Change, &[], &[255], &mut |_, _| {
                n += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
            eprintln!("rows {n} want {}", 100 + i - 1000 - 1 + 1);
            drop(s);
            let s = Store::open(&p).unwrap();
            let mut n = 0;
            s.scan(Table::Change, &[], &[255], &mut |_, _| {
                n += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
            eprintln!("rows {n} after reopen");
            drop(s);
        }
        assert!(std::process::Command::new("umount").arg(&m).status().unwrap().success());
    }
}
