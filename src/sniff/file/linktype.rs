//! Link types of capture files: the header that a frame begins with, by number, and the names of
//! all numbers. Pure.

/// The first header of a frame, for the link types that are read (LINKTYPE_*, tcpdump.org).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// Ethernet, LINKTYPE_ETHERNET; the loopback interface of Linux has it as well.
    Ethernet,
    /// Linux cooked capture, LINKTYPE_LINUX_SLL.
    Cooked,
    /// Linux cooked capture, version 2, LINKTYPE_LINUX_SLL2.
    Cooked2,
    /// No link header: the frame begins with IP; LINKTYPE_RAW, LINKTYPE_IPV4 and LINKTYPE_IPV6.
    Ip,
    /// Four bytes and the IP header: LINKTYPE_NULL and LINKTYPE_LOOP, the loopback of BSD.
    Null,
    /// PPP, with or without HDLC's address and control (RFC 1662); LINKTYPE_PPP, _PPP_HDLC.
    Ppp,
    /// PPP after a byte that names the direction: LINKTYPE_PPP_PPPD, LINKTYPE_PPP_WITH_DIR.
    PppWithDirection,
    /// A PPPoE header (RFC 2516), LINKTYPE_PPP_ETHER.
    PppOverEthernet,
    /// Cisco HDLC: address, control, Ethernet type; LINKTYPE_C_HDLC.
    CiscoHdlc,
    /// Cisco HDLC after a byte that names the direction, LINKTYPE_C_HDLC_WITH_DIR.
    CiscoHdlcWithDirection,
    /// An LLC header (IEEE 802.2), LINKTYPE_ATM_RFC1483.
    Llc,
    /// FDDI: frame control, two addresses, LLC; LINKTYPE_FDDI.
    Fddi,
    /// SLIP with the header of BSD, 16 bytes, then IP; LINKTYPE_SLIP.
    Slip,
    /// OpenBSD's IPsec interface, 12 bytes, then IP; LINKTYPE_ENC.
    Enc,
    /// The log of the BSD packet filter, whose header contains its own length; LINKTYPE_PFLOG.
    Pflog,
    /// IP over IEEE 1394 as macOS shows it: 16 bytes, an Ethernet type; LINKTYPE_APPLE_IP_....
    Firewire,
    /// MPLS labels, LINKTYPE_MPLS.
    Mpls,
    /// The log of Linux' netfilter: attributes, one of which is the packet; LINKTYPE_NFLOG.
    Nflog,
    /// Four bytes, then Ethernet; LINKTYPE_NETANALYZER.
    NetAnalyzer,
    /// IP over InfiniBand: 40 bytes of routing, an Ethernet type, 2 bytes; LINKTYPE_IPOIB.
    Infiniband,
    /// A header that names the link type of what follows it, LINKTYPE_PPI.
    Ppi,
    /// A header that names the link type of what follows it, LINKTYPE_PKTAP of macOS.
    Pktap,
}

impl Link {
    /// Returns the link type of this number; `None` when its frames cannot be read.
    pub fn from_number(number: u32) -> Option<Link> {
        Some(match number {
            0 | 108 => Link::Null,
            1 => Link::Ethernet,
            8 => Link::Slip,
            9 | 50 => Link::Ppp,
            10 => Link::Fddi,
            // 12 and 14 are the numbers of raw IP on some systems.
            12 | 14 | 101 | 228 | 229 => Link::Ip,
            51 => Link::PppOverEthernet,
            100 => Link::Llc,
            104 => Link::CiscoHdlc,
            109 => Link::Enc,
            113 => Link::Cooked,
            117 => Link::Pflog,
            138 => Link::Firewire,
            166 | 204 => Link::PppWithDirection,
            192 => Link::Ppi,
            205 => Link::CiscoHdlcWithDirection,
            219 => Link::Mpls,
            239 => Link::Nflog,
            240 => Link::NetAnalyzer,
            242 => Link::Infiniband,
            258 => Link::Pktap,
            276 => Link::Cooked2,
            _ => return None,
        })
    }
}

/// Returns the name of a link type, without its prefix `LINKTYPE_`; `None` for a number without
/// one.
pub fn name(number: u32) -> Option<&'static str> {
    if (147..=162).contains(&number) {
        return Some("USER, for private use");
    }
    let place = NAMES.binary_search_by_key(&number, |(number, _)| *number);
    place.ok().map(|place| NAMES[place].1)
}

/// All link types that have a number (tcpdump.org/linktypes.html), in the order of their numbers.
#[rustfmt::skip]
const NAMES: [(u32, &str); 201] = [
    (0, "NULL"), (1, "ETHERNET"), (2, "EXP_ETHERNET"), (3, "AX25"), (4, "PRONET"), (5, "CHAOS"),
    (6, "IEEE802_5"), (7, "ARCNET_BSD"), (8, "SLIP"), (9, "PPP"), (10, "FDDI"), (12, "RAW"),
    (14, "RAW"), (50, "PPP_HDLC"), (51, "PPP_ETHER"), (99, "SYMANTEC_FIREWALL"),
    (100, "ATM_RFC1483"), (101, "RAW"), (102, "SLIP_BSDOS"), (103, "PPP_BSDOS"), (104, "C_HDLC"),
    (105, "IEEE802_11"), (106, "ATM_CLIP"), (107, "FRELAY"), (108, "LOOP"), (109, "ENC"),
    (110, "LANE8023"), (111, "HIPPI"), (112, "HDLC"), (113, "LINUX_SLL"), (114, "LTALK"),
    (115, "ECONET"), (116, "IPFILTER"), (117, "PFLOG"), (118, "CISCO_IOS"),
    (119, "IEEE802_11_PRISM"), (120, "IEEE802_11_AIRONET"), (121, "HHDLC"), (122, "IP_OVER_FC"),
    (123, "SUNATM"), (124, "RIO"), (125, "PCI_EXP"), (126, "AURORA"),
    (127, "IEEE802_11_RADIOTAP"), (128, "TZSP"), (129, "ARCNET_LINUX"), (130, "JUNIPER_MLPPP"),
    (131, "JUNIPER_MLFR"), (132, "JUNIPER_ES"), (133, "JUNIPER_GGSN"), (134, "JUNIPER_MFR"),
    (135, "JUNIPER_ATM2"), (136, "JUNIPER_SERVICES"), (137, "JUNIPER_ATM1"),
    (138, "APPLE_IP_OVER_IEEE1394"), (139, "MTP2_WITH_PHDR"), (140, "MTP2"), (141, "MTP3"),
    (142, "SCCP"), (143, "DOCSIS"), (144, "LINUX_IRDA"), (145, "IBM_SP"), (146, "IBM_SN"),
    (163, "IEEE802_11_AVS"), (164, "JUNIPER_MONITOR"), (165, "BACNET_MS_TP"), (166, "PPP_PPPD"),
    (167, "JUNIPER_PPPOE"), (168, "JUNIPER_PPPOE_ATM"), (169, "GPRS_LLC"), (170, "GPF_T"),
    (171, "GPF_F"), (172, "GCOM_T1E1"), (173, "GCOM_SERIAL"), (174, "JUNIPER_PIC_PEER"),
    (175, "ERF_ETH"), (176, "ERF_POS"), (177, "LINUX_LAPD"), (178, "JUNIPER_ETHER"),
    (179, "JUNIPER_PPP"), (180, "JUNIPER_FRELAY"), (181, "JUNIPER_CHDLC"), (182, "MFR"),
    (183, "JUNIPER_VP"), (184, "A429"), (185, "A653_ICM"), (186, "USB_FREEBSD"),
    (187, "BLUETOOTH_HCI_H4"), (188, "IEEE802_16_MAC_CPS"), (189, "USB_LINUX"), (190, "CAN20B"),
    (191, "IEEE802_15_4_LINUX"), (192, "PPI"), (193, "IEEE802_16_MAC_CPS_RADIO"),
    (194, "JUNIPER_ISM"), (195, "IEEE802_15_4_WITHFCS"), (196, "SITA"), (197, "ERF"),
    (198, "RAIF1"), (199, "IPMB_KONTRON"), (200, "JUNIPER_ST"),
    (201, "BLUETOOTH_HCI_H4_WITH_PHDR"), (202, "AX25_KISS"), (203, "LAPD"), (204, "PPP_WITH_DIR"),
    (205, "C_HDLC_WITH_DIR"), (206, "FRELAY_WITH_DIR"), (207, "LAPB_WITH_DIR"),
    (209, "IPMB_LINUX"), (210, "FLEXRAY"), (211, "MOST"), (212, "LIN"), (213, "X2E_SERIAL"),
    (214, "X2E_XORAYA"), (215, "IEEE802_15_4_NONASK_PHY"), (216, "LINUX_EVDEV"),
    (217, "GSMTAP_UM"), (218, "GSMTAP_ABIS"), (219, "MPLS"), (220, "USB_LINUX_MMAPPED"),
    (221, "DECT"), (222, "AOS"), (223, "WIHART"), (224, "FC_2"), (225, "FC_2_WITH_FRAME_DELIMS"),
    (226, "IPNET"), (227, "CAN_SOCKETCAN"), (228, "IPV4"), (229, "IPV6"),
    (230, "IEEE802_15_4_NOFCS"), (231, "DBUS"), (232, "JUNIPER_VS"), (233, "JUNIPER_SRX_E2E"),
    (234, "JUNIPER_FIBRECHANNEL"), (235, "DVB_CI"), (236, "MUX27010"), (237, "STANAG_5066_D_PDU"),
    (238, "JUNIPER_ATM_CEMIC"), (239, "NFLOG"), (240, "NETANALYZER"),
    (241, "NETANALYZER_TRANSPARENT"), (242, "IPOIB"), (243, "MPEG_2_TS"), (244, "NG40"),
    (245, "NFC_LLCP"), (246, "PFSYNC"), (247, "INFINIBAND"), (248, "SCTP"), (249, "USBPCAP"),
    (250, "RTAC_SERIAL"), (251, "BLUETOOTH_LE_LL"), (252, "WIRESHARK_UPPER_PDU"),
    (253, "NETLINK"), (254, "BLUETOOTH_LINUX_MONITOR"), (255, "BLUETOOTH_BREDR_BB"),
    (256, "BLUETOOTH_LE_LL_WITH_PHDR"), (257, "PROFIBUS_DL"), (258, "PKTAP"), (259, "EPON"),
    (260, "IPMI_HPM_2"), (261, "ZWAVE_R1_R2"), (262, "ZWAVE_R3"), (263, "WATTSTOPPER_DLM"),
    (264, "ISO_14443"), (265, "RDS"), (266, "USB_DARWIN"), (267, "OPENFLOW"), (268, "SDLC"),
    (269, "TI_LLN_SNIFFER"), (270, "LORATAP"), (271, "VSOCK"), (272, "NORDIC_BLE"),
    (273, "DOCSIS31_XRA31"), (274, "ETHERNET_MPACKET"), (275, "DISPLAYPORT_AUX"),
    (276, "LINUX_SLL2"), (277, "SERCOS_MONITOR"), (278, "OPENVIZSLA"), (279, "EBHSCR"),
    (280, "VPP_DISPATCH"), (281, "DSA_TAG_BRCM"), (282, "DSA_TAG_BRCM_PREPEND"),
    (283, "IEEE802_15_4_TAP"), (284, "DSA_TAG_DSA"), (285, "DSA_TAG_EDSA"), (286, "ELEE"),
    (287, "Z_WAVE_SERIAL"), (288, "USB_2_0"), (289, "ATSC_ALP"), (290, "ETW"),
    (291, "NETANALYZER_NG"), (292, "ZBOSS_NCP"), (293, "USB_2_0_LOW_SPEED"),
    (294, "USB_2_0_FULL_SPEED"), (295, "USB_2_0_HIGH_SPEED"), (296, "AUERSWALD_LOG"),
    (297, "ZWAVE_TAP"), (298, "SILABS_DEBUG_CHANNEL"), (299, "FIRA_UCI"), (300, "MDB"),
    (301, "DECT_NR"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_type_that_is_read_has_a_name_and_the_table_is_in_order() {
        assert!(NAMES.windows(2).all(|pair| pair[0].0 < pair[1].0));
        let read = (0..1000).filter(|number| Link::from_number(*number).is_some());
        for number in read {
            assert!(name(number).is_some(), "{number}");
        }
        assert_eq!(name(127), Some("IEEE802_11_RADIOTAP"));
        assert_eq!(name(150), Some("USER, for private use"));
        assert_eq!(name(60_000), None);
    }
}
